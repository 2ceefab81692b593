"""The `dibs-rl` command; one file for each of its commands."""

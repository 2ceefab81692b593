"""`python -m dibs_rl` is the `dibs-rl` command."""

from dibs_rl.cli.main import main

if __name__ == "__main__":
    main()

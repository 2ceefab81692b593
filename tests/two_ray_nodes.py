"""A Ray cluster of two nodes with one processor each, on this machine, in a process of its own.

Prints its address; a line on its standard input kills the second node, the end of the input ends the cluster.
"""

import sys

from ray.cluster_utils import Cluster

# A node counts as dead after a second of silence instead of a quarter of a minute.
ALERT = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 3}

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": ALERT})
second = cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
for _ in sys.stdin:
    cluster.remove_node(second, allow_graceful=False)
    print("killed", flush=True)
cluster.shutdown()

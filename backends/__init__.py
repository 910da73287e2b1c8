"""Model servers: pools, instances and their states, launchers, leases, the upstream connection.

Knows HTTP and processes; knows nothing of OpenAI requests or of policies.
"""

"""The YAML file: schema, loading with line numbers, environment, JSON Schema, change detection.

Owns what a configuration is. Knows nothing of the network, of asyncio, or of any decision.
"""

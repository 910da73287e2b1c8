"""Replays a trace of requests against a configuration, with the live router's own decisions.

Traces come in as arrays (`traces.py`, `columns.py`, `rates.py`), rates are drawn into arrivals
(`arrivals.py`), and a simulated clock drives the same planner as the gateway. No network, no
event loop, no real time.
"""

"""Decisions as pure functions: state and time come in as arguments, answers go out with reasons.

No clock, no randomness, no I/O and no logging here, so that one function decides live, in
`explain` and in `replay`.
"""

"""One request's journey: facts, decision, admission, lease, attempts, record.

Owns no HTTP framework object and no process; it is the only package that sees both `backends`
and `policies`.
"""

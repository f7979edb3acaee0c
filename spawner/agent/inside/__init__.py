"""What runs inside a session, on the session's own Python: copied there, never imported here.

For: `jupyter_lab.py` starts the server on the socket it inherited; `settings.py` is its private configuration.
Promises: one file each, no import of ours, nothing secret in them (that stands in `session.json` beside them).
Must not know: the spawner's own Python or packages.
"""

"""The program beside a session: prepares it, starts it, watches it, ends it.

For: one process per session, parent of everything that runs there; `python -m spawner.agent <plan.json>`.
Promises: the spawner may come and go; whatever the session started ends with it; its last word is in a file.
Must not know: anything of the spawner but the plan it was given, any GitLab token, any library that is not
Python's own (it must start in milliseconds, in any interpreter).
"""

"""Tasks: who runs a service's method when nobody is waiting for the answer.

For: `spawner.wiring` chooses a dispatcher; entry points start it.
Promises: a task is a kind and a subject's id, nothing else; it may be lost, doubled or run anywhere.
Must not know: HTTP, any adapter.
"""

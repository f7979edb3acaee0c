"""A small shell runner that speaks GitLab's Runner HTTP protocol: `python -m spawner.testing.gitlab.runner --help`.

It takes jobs from the stand-in, or from anything else that speaks the protocol, and runs their scripts with bash in a
folder of their own. Any other runner that speaks the protocol can take its place.

Promises: a job sees nothing of the runner's environment but what it was told to pass on, and no process of a
job outlives it.
Must not know: the stand-in; it is an HTTP client, and imports only the standard library and requests.
Source of the protocol: gitlab-runner 19.4, `network/gitlab.go` and `common/network.go`.
"""

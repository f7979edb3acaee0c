"""GitLab: the forge, its registry, its sign-in and its hooks, behind the ports."""

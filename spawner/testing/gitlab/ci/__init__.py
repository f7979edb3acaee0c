"""Continuous integration: pipelines are made, jobs move through their states, runners are served."""

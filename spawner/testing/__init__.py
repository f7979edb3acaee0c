"""What is shipped for trying and testing: the GitLab stand-in, the demo and its check.

Nothing in here is imported by the product's own code.
"""

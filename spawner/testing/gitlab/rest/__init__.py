"""REST v4, one module per subject; every module has a `blueprint` that `app` mounts under `/api/v4`."""

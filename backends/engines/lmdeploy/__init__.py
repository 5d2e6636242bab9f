"""LMDeploy's server."""

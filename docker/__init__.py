"""What it takes to run the gateway with its surroundings: Prometheus, Grafana, containers."""

"""What the gateway costs, measured beside C proxies and other gateways. Not part of the installed package."""

"""The dashboards, and what writes them and looks at them."""

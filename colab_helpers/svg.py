"""Charts as inline SVG, for pages and notebooks that load nothing from elsewhere."""

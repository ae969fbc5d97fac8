"""What a reader looks at: tables, figures, heatmaps, the explorer, the feature page."""

"""From features to pseudo labels: K-Means mixtures, label transport, quality."""

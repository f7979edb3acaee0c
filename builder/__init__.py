"""The builder: from a commit to its image, in CI and on a laptop. It stands alone and knows no spawner."""

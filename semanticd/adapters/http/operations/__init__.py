"""Routes of operators: health, metrics, models, administration, documentation."""

"""The retrieval system: two towers trained on purchases, and judged over the whole catalogue."""

"""Raw tables of any shop: CSV and Parquet, rows that cannot be read counted and kept aside."""

"""Every closed window's readings and summaries, as partitioned Parquet."""

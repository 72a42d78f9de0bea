"""Pure statistics: functions and mergeable arrays that know no Arrow schema and no metric names."""

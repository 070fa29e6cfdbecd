"""Files that a run can trust: shards and notes, on a disk or in an object store, whole or found out."""

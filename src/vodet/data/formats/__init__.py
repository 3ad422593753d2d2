"""Other data sets as ST-COCO: one file a format, each a reader of records for the one writer."""

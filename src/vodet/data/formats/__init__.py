"""Conversion of other data sets to ST-COCO: one reader per format, one writer for all."""

"""Converts other data sets to ST-COCO: one reader for each format, one writer for all."""

"""DICOM and raster decoding, the radiograph, preprocessing."""

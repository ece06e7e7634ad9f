"""A result as others read it: DICOM objects, FHIR resources, a page."""

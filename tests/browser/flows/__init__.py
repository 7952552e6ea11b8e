"""What users do with the page: mixins, which run in every browser."""

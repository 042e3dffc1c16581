"""The fields of the config, by what they are about; `schema.py` has them all."""

"""Output that has to have a form: grammars, repair, validation."""

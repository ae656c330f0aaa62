"""Small synthetic tasks from the papers that tell architectures apart."""

"""The Model Context Protocol: a program that writes with an LLM can search, ask and read pages here."""

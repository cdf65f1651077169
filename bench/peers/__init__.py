"""Other people's libraries behind two small seams: rerankers, and whole paths from PDF to ranked passages."""

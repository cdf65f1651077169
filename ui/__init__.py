"""The pages of the Streamlit app: one module a page. They render values and compute nothing."""

"""The Streamlit app: page setup and navigation. Run it with `streamlit run app.py`; the pages are in `ui/`."""

import logging
from pathlib import Path

import streamlit as st

from ui import ask, collections, documents, settings_page, sign_in
from ui.models import begin_loading, show_failure
from ui.problems import problems_shown
from ui.sidebar import show_sidebar
from ui.workspace import open_workspace

UI = Path(__file__).parent / "ui"

for name in ("rag", "ingest", "ui"):
    logging.getLogger(name).setLevel(logging.INFO)
logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")

st.set_page_config("Rank37", page_icon=UI / "icon.svg", layout="wide")
st.logo(UI / "logo.svg", size="large")
st.html(UI / "style.css")
st.html(UI / "chats.css")
st.html(f"<style>.stDialog {{ color-scheme: {st.context.theme.type or 'light'}; }}</style>")


def show_quality() -> None:
    """The page that imports what draws charts."""
    from ui import quality

    quality.show()


visitor = None
is_asked = False
with problems_shown(retry_key="open_again"):
    visitor = sign_in.find_visitor()
    is_asked = visitor is None
ask_page = st.Page(ask.show, title="Ask", icon=":material/forum:", default=True)
page = st.navigation(
    [
        ask_page,
        st.Page(documents.show, title="Documents", icon=":material/description:", url_path="documents"),
        st.Page(show_quality, title="Quality", icon=":material/monitoring:", url_path="quality"),
        st.Page(collections.show, title="Collections", icon=":material/folder:", url_path="collections"),
        st.Page(settings_page.show, title="Settings", icon=":material/settings:", url_path="settings"),
    ],
    position="sidebar" if visitor else "hidden",
)
if visitor is not None:
    st.session_state["page_before"] = st.session_state.get("page")
    st.session_state["page"] = page.title
    with problems_shown(retry_key="open_again"):
        workspace = open_workspace()
        with st.sidebar, problems_shown():
            show_sidebar(workspace, ask_page)
        show_failure(workspace)
        try:
            page.run()
        finally:
            begin_loading(workspace)  # not before the page is drawn, which that would slow down
elif is_asked:
    with problems_shown():
        sign_in.show()

// Starts the page: the model, the views, the key, and what a link asks for.

import { loadModel, Problem, setKey } from "./api.js";
import { Chat } from "./chat.js";
import { Compare } from "./compare.js";
import { offerMethods, setControls } from "./controls.js";
import { byId } from "./dom.js";

const chat = new Chat();
const compare = new Compare();

function showView(name) {
  document.body.dataset.view = name;
  for (const view of ["chat", "compare"]) byId(`view-${view}`).setAttribute("aria-current", String(view === name));
}

function notice(text) {
  byId("notice").textContent = text;
  byId("notice").hidden = !text;
}

/** Fill the fields from the address; nothing is sent before the user does so. */
function openLink() {
  const values = new URLSearchParams(location.hash.slice(1));
  const messages = [...values].filter(([name]) => name === "user" || name === "assistant").map(([, text]) => text);
  if (messages.length === 0) return;
  const unknown = setControls(values);
  const isCompare = values.get("view") === "compare";
  showView(isCompare ? "compare" : "chat");
  if (isCompare) compare.restore(messages[0]);
  else chat.restore(messages);
  const button = isCompare ? "Run both" : "Send";
  notice(
    unknown.length
      ? `The link asks for ${unknown.join(", ")}, which this server does not have.`
      : `Everything is set as in the link; press “${button}” to make the answer again.`,
  );
}

let isOpen = false;

async function connect() {
  try {
    const model = await loadModel();
    const { runtime, dtype } = model.eyas;
    byId("model").textContent = `${model.id} · ${runtime}, ${dtype}`;
    byId("key").hidden = true;
    notice("");
    if (isOpen) return; // a key was asked for later: what stands here stays
    isOpen = true;
    offerMethods(model.eyas);
    openLink();
  } catch (error) {
    if (error.status === 401) {
      askForKey();
      return;
    }
    byId("model").textContent = "no model";
    notice(error instanceof Problem ? error.message : "The page itself failed; reload it, please.");
    if (!(error instanceof Problem)) console.error(error);
  }
}

let isKeyGiven = false;

function askForKey() {
  byId("model").textContent = "locked";
  byId("key").hidden = false;
  notice(isKeyGiven ? "That key is wrong." : "");
  byId("key-input").focus();
}

byId("key").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(byId("key-input").value);
  byId("key-input").value = "";
  isKeyGiven = true;
  connect();
});
document.addEventListener("key-wanted", askForKey);
document.addEventListener("input", () => byId("notice").hidden || notice(""));
byId("composer").addEventListener("submit", () => notice(""));
byId("compare-form").addEventListener("submit", () => notice(""));
byId("view-chat").onclick = () => showView("chat");
byId("view-compare").onclick = () => showView("compare");
window.addEventListener("hashchange", openLink);

connect();

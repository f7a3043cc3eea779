// The form above both views: how answers are made.

import { byId, element } from "./dom.js";

const form = byId("controls");
const NUMBERS = ["temperature", "seed", "max_tokens", "draft_tokens", "depth"];
const NAMES = ["method", "first", "second", "tree", ...NUMBERS];
const PLAIN = "autoregressive";
let sized = []; // methods whose trees have the sizes of the form

/** Offer the methods of a model. */
export function offerMethods({ method, methods, sized_methods }) {
  sized = sized_methods;
  for (const name of ["method", "first", "second"]) {
    form.elements[name].replaceChildren(...methods.map((value) => element("option", { value, textContent: value })));
  }
  form.elements.method.value = form.elements.second.value = method;
  form.elements.first.value = methods.includes(PLAIN) ? PLAIN : methods[0];
  showTree();
}

/** The options of a request for an answer by `method`. */
export function requestOptions(method = form.elements.method.value) {
  const number = Object.fromEntries(
    NUMBERS.map((name) => [name, form.elements[name].value === "" ? undefined : Number(form.elements[name].value)]),
  );
  const { temperature, seed, max_tokens, draft_tokens, depth } = number;
  const size = form.elements.tree.value === "fixed" && sized.includes(method) ? { draft_tokens, depth } : {};
  return { temperature, seed, max_tokens, eyas: { method, trace: true, ...size } };
}

/** The two methods of the side-by-side view. */
export const comparedMethods = () => [form.elements.first.value, form.elements.second.value];

/** Whether all fields hold what they may; the browser shows what does not. */
export const areValid = () => form.reportValidity();

/** The controls' values by name, for a link. */
export const controlValues = () => Object.fromEntries(NAMES.map((name) => [name, form.elements[name].value]));

/** Set controls from a link; what it does not name stays. A method that is not offered is named by the result. */
export function setControls(values) {
  const unknown = [];
  for (const name of NAMES) {
    if (!values.has(name)) continue;
    const field = form.elements[name];
    field.value = values.get(name);
    if (field.value !== values.get(name)) {
      unknown.push(values.get(name));
      if (field.tagName === "SELECT") field.selectedIndex = 0;
    }
  }
  showTree();
  return unknown;
}

function showTree() {
  form.classList.toggle("fixed", form.elements.tree.value === "fixed");
}

form.elements.tree.addEventListener("change", showTree);
form.addEventListener("submit", (event) => event.preventDefault());

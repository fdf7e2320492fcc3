// The page at /docs: draws the routes and schemas of /openapi.json and lets one send requests.
// Everything is set as text, never as markup: answers contain what a model wrote.
"use strict";

const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};

const refName = (schema) => (schema && schema.$ref ? schema.$ref.split("/").pop() : "");

function typeOf(schema) {
  if (!schema) return "any";
  if (schema.$ref) return refName(schema);
  const branches = schema.anyOf || schema.oneOf;
  if (branches) return branches.map(typeOf).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.type === "array") return `list of ${typeOf(schema.items)}`;
  return schema.type || "any";
}

function bounds(schema) {
  const signs = { minimum: "≥", exclusiveMinimum: ">", maximum: "≤", exclusiveMaximum: "<" };
  const all = [schema, ...(schema.anyOf || [])];
  return all.flatMap((part) => Object.keys(signs).filter((key) => key in part)
    .map((key) => `${signs[key]} ${part[key]}`)).join(", ");
}

function fieldsTable(schema) {
  const table = make("table", {}, make("tr", {}, make("th", {}, "field"), make("th", {}, "type"),
    make("th", {}, "default"), make("th", {}, "meaning")));
  const required = schema.required || [];
  for (const [name, field] of Object.entries(schema.properties || {})) {
    const fallback = required.includes(name) ? "required" : JSON.stringify(field.default ?? null);
    const meaning = [field.description, bounds(field)].filter(Boolean).join(" ");
    table.append(make("tr", {}, make("td", {}, make("code", {}, name)), make("td", {}, typeOf(field)),
      make("td", {}, fallback), make("td", {}, meaning)));
  }
  return table;
}

const EXAMPLES = {
  CreateTrainingRunRequest: { base_model: "nano" },
  TrainingRequest: { input_ids: [1, 2, 3, 4] },
  RunTrainingRequest: { run_id: "run_…", input_ids: [1, 2, 3, 4] },
  OptimStepRequest: { learning_rate: 0.0002 },
  RunOptimStepRequest: { run_id: "run_…", learning_rate: 0.0002 },
  SampleRequest: { prompt: "Hello", max_new_tokens: 20 },
  SaveRequest: { name: "first" },
  LoadRequest: { name: "first" },
  EvaluationRequest: { batches: [{ prompt_ids: [1, 2], response_ids: [3, 4] }] },
};

async function send(method, path, inputs, body, output) {
  let url = path;
  const query = new URLSearchParams();
  const headers = {};
  for (const { parameter, input } of inputs) {
    if (!input.value) continue;
    if (parameter.in === "path") {
      url = url.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
    } else if (parameter.in === "query") query.set(parameter.name, input.value);
    else headers[parameter.name] = input.value;
  }
  const key = document.getElementById("key").value;
  if (key) headers["X-API-Key"] = key;
  if (body !== null && body.value) headers["Content-Type"] = "application/json";
  if ([...query].length) url += `?${query}`;
  output.textContent = "…";
  try {
    const answer = await fetch(url, { method, headers, body: body === null ? undefined : body.value || undefined });
    const text = await answer.text();
    let shown = text;
    try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON: shown as it came */ }
    output.textContent = `${answer.status} ${url}\n\n${shown}`;
  } catch (error) {
    output.textContent = `No answer: ${error}`;
  }
}

function drawRoute(path, method, operation, schemas) {
  const details = make("details", {}, make("summary", {},
    make("span", { class: `method ${method}` }, method.toUpperCase()), make("code", {}, path)));
  details.append(make("p", {}, operation.description || operation.summary || ""));
  const inputs = (operation.parameters || []).map((parameter) => {
    const input = make("input", { placeholder: typeOf(parameter.schema) });
    details.append(make("div", { class: "parameter" }, make("label", {},
      make("code", {}, `${parameter.name} `), input, ` ${parameter.in}. ${parameter.description || ""}`)));
    return { parameter, input };
  });
  let body = null;
  const content = operation.requestBody && operation.requestBody.content["application/json"];
  if (content) {
    const name = refName(content.schema);
    details.append(make("p", {}, `Body: ${name}`), fieldsTable(schemas[name]));
    body = make("textarea", { spellcheck: "false", "aria-label": "body" });
    body.value = JSON.stringify(EXAMPLES[name] || {}, null, 2);
    details.append(body);
  }
  const ok = operation.responses["200"];
  const answer = ok && ok.content && ok.content["application/json"];
  if (answer) details.append(make("p", {}, `Answer: ${typeOf(answer.schema)}`));
  const button = make("button", { type: "button" }, "Send");
  const output = make("pre", {}, "");
  button.addEventListener("click", () => send(method.toUpperCase(), path, inputs, body, output));
  details.append(button, output);
  return details;
}

function draw(api) {
  document.getElementById("version").textContent = api.info.version;
  document.getElementById("description").textContent = api.info.description;
  const groups = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const tag = (operation.tags || ["other"])[0];
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(drawRoute(path, method, operation, api.components.schemas));
    }
  }
  const routes = document.getElementById("routes");
  routes.replaceChildren();
  for (const [tag, entries] of groups) routes.append(make("h2", {}, tag), ...entries);
  const schemas = document.getElementById("schemas");
  for (const [name, schema] of Object.entries(api.components.schemas).sort()) {
    schemas.append(make("details", {}, make("summary", {}, make("code", {}, name)),
      make("p", {}, schema.description || ""), fieldsTable(schema)));
  }
}

fetch("/openapi.json").then((answer) => answer.json()).then(draw).catch((error) => {
  document.getElementById("routes").textContent = `The description could not be loaded: ${error}`;
});

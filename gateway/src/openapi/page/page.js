// Draws the document of the API: endpoint by endpoint, then the types that they name.
"use strict";

const element = (tag, ...children) => {
  const node = document.createElement(tag);
  node.append(...children.filter((child) => child !== null));
  return node;
};

// Text with `code` in it; a blank line begins a paragraph.
const prose = (text) =>
  (text ? text.split("\n\n") : []).map((paragraph) =>
    element("p", ...paragraph.split("`").map((part, at) => (at % 2 ? element("code", part) : part))));

const table = (titles, rows) =>
  rows.length === 0 ? null : element("table",
    element("tr", ...titles.map((title) => element("th", title))),
    ...rows.map((cells) => element("tr", ...cells.map((cell) => element("td", ...[cell].flat())))));

const json = (value) => element("pre", JSON.stringify(value, null, 2));

// The name of a type, a link where it has one.
const type = (schema = {}) => {
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    const link = element("a", name);
    link.href = "#" + name;
    return [link];
  }
  if (schema.type === "array") return ["list of ", ...type(schema.items)];
  const several = schema.oneOf ?? schema.anyOf ?? schema.allOf;
  if (several) return several.flatMap((one, at) => (at ? [" or ", ...type(one)] : type(one)));
  if (schema.enum) return [schema.enum.map((value) => JSON.stringify(value)).join(", ")];
  const bounds = [["minimum", "≥ "], ["maximum", "≤ "], ["maxLength", "length ≤ "]]
    .filter(([name]) => name in schema).map(([name, sign]) => sign + schema[name]);
  return [[[schema.type].flat().join(" or "), schema.format, ...bounds].filter(Boolean).join(", ")];
};

const body = (content = {}) => Object.entries(content).flatMap(([mediaType, { schema, example }]) => [
  element("p", element("code", mediaType), ": ", ...type(schema)),
  ...(example === undefined ? [] : [json(example)]),
]);

const operation = (method, path, { summary, description, security, parameters = [], requestBody, responses }) => [
  element("h2", element("code", method.toUpperCase() + " " + path)),
  ...prose(summary),
  ...prose(description),
  security ? element("p", "Needs a token.") : null,
  table(["parameter", "in", "type", "meaning"], parameters.map((parameter) => [
    element("code", parameter.name), parameter.in, type(parameter.schema), prose(parameter.description)])),
  ...(requestBody ? [element("h3", "Body"), ...body(requestBody.content)] : []),
  element("h3", "Answers"),
  table(["status", "meaning", "headers"], Object.entries(responses).map(([status, response]) => [
    element("code", status),
    [...prose(response.description), ...body(response.content)],
    Object.entries(response.headers ?? {}).flatMap(([name, header]) => {
      const code = element("code", name);
      code.title = header.description ?? "";
      return [code, " "];
    })])),
];

const schema = ([name, described]) => {
  const title = element("h3", name);
  title.id = name;
  return [
    title,
    ...prose(described.description),
    table(["field", "type", "meaning"], Object.entries(described.properties ?? {}).map(([field, property]) => [
      element("code", field), type(property), prose(property.description)])),
    ...(described.properties ? [] : [element("p", ...type(described))]),
    "example" in described ? json(described.example) : null,
  ];
};

const draw = (spec) => [
  element("h1", spec.info.title),
  element("p", "Version " + spec.info.version + ". The same for programs: ", (() => {
    const link = element("a", "api-spec.json");
    link.href = "api-spec.json";
    return link;
  })()),
  ...prose(spec.info.description),
  ...Object.entries(spec.paths).flatMap(([path, methods]) =>
    Object.entries(methods).flatMap(([method, described]) => operation(method, path, described))),
  element("h2", "Types"),
  ...Object.entries(spec.components.schemas).flatMap(schema),
];

fetch("api-spec.json")
  .then((answer) => answer.ok ? answer.json() : Promise.reject(new Error("status " + answer.status)))
  .then((spec) => document.body.append(...draw(spec).filter((node) => node !== null)))
  .catch((error) => document.body.append(element("p", "The document can't be shown: " + error.message)));

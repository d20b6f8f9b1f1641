// What this page shows of the endpoint's answers is set as text, never as markup: class names may be anything.
"use strict";

const byId = (id) => document.getElementById(id);
const TOP = 5;
let shown = 0;
let pictureAddress = "";

function headers(more) {
  const token = byId("token").value;
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: headers(options.headers || {}) });
  if (answer.status === 401) byId("token-line").hidden = false;
  if (answer.ok) return answer.json();
  let reason = `status ${answer.status}`;
  try {
    reason = (await answer.json()).error.message;
  } catch {
    // No JSON: the status has to do.
  }
  throw new Error(reason);
}

async function describe() {
  try {
    const about = await ask("metadata");
    byId("name").textContent = about.endpoint;
    document.title = `${about.endpoint}: finepoint endpoint`;
    const classes = about.classes || [];
    const test = about.metrics && about.metrics.test;
    const right = test ? ` It was right on ${percent(test.accuracy)} of ${test.images.toLocaleString()} test images.` : "";
    const named = classes.length > 12 ? `${classes.slice(0, 12).join(", ")}, …` : classes.join(", ");
    byId("about").textContent = classes.length
      ? `It tells ${classes.length} classes: ${named}.${right}`
      : "It has a handler of its own.";
  } catch (error) {
    byId("about").textContent = `The endpoint does not say what it serves: ${error.message}`;
  }
}

async function classify(file) {
  const turn = ++shown;
  byId("status").textContent = "Looking at it …";
  byId("result").hidden = true;
  const kind = file.type || "application/octet-stream";
  const body = { method: "POST", body: file, headers: { "Content-Type": kind, Accept: "application/json" } };
  let answer;
  let problem = "";
  try {
    answer = await ask(`invocations?top=${TOP}&explain=true&similar=true`, body);
  } catch (first) {
    try {
      answer = await ask(`invocations?top=${TOP}`, body);
      problem = first.message;
    } catch (error) {
      if (turn === shown) byId("status").textContent = `No answer: ${error.message}`;
      return;
    }
  }
  if (turn !== shown) return;
  show(answer, file, kind, problem);
}

function show(answer, file, kind, problem) {
  const classes = Object.entries(answer.probabilities);
  byId("answer").textContent = answer.unknown ? `Perhaps none of the classes; nearest: ${answer.label}` : answer.label;
  byId("unknown").hidden = !answer.unknown;
  byId("unknown").textContent = answer.unknown
    ? `This looks unlike the images it was trained on (score ${answer.unknown_score.toPrecision(3)}, known up to ${answer.unknown_threshold.toPrecision(3)}). The classes below are only the nearest ones.`
    : "";
  byId("classes").replaceChildren(...classes.map(([name, share]) => classLine(name, share)));
  if (pictureAddress) URL.revokeObjectURL(pictureAddress);
  pictureAddress = URL.createObjectURL(file);
  byId("picture").src = pictureAddress;
  const why = answer.explanation;
  byId("why").hidden = !why;
  if (why) {
    byId("heat").src = why.image;
    byId("heat").alt = `Heat map: bright where the picture speaks for ${why.label}`;
    byId("why-text").textContent =
      `Bright where the picture speaks for ${why.label}. This is ${percent(why.share)} of the evidence; the rest has no place in the picture.`;
  }
  byId("no-why").hidden = Boolean(why);
  byId("no-why").textContent = why ? "" : `No heat map: ${problem}`;
  showSimilar(answer.similar || []);
  const name = file.name || "picture.jpg";
  const shield = byId("token").value ? ' -H "Authorization: Bearer $FINEPOINT_TOKEN"' : "";
  const address = new URL(`invocations?top=${TOP}`, document.baseURI);
  byId("curl").textContent =
    `curl --data-binary @${quoted(name)} -H 'Content-Type: ${kind}'${shield} '${address.href}'`;
  byId("copied").textContent = "";
  byId("status").textContent = answer.warning ? `Answered; ${answer.warning}.` : "Answered.";
  byId("result").hidden = false;
  byId("answer").focus();
}

function classLine(name, share) {
  const line = document.createElement("li");
  const label = document.createElement("span");
  const number = document.createElement("span");
  const bar = document.createElement("meter");
  label.textContent = name;
  number.textContent = percent(share);
  bar.value = share;
  bar.setAttribute("aria-hidden", "true");
  line.append(label, number, bar);
  return line;
}

function showSimilar(images) {
  byId("similar").hidden = images.length === 0;
  byId("thumbnails").replaceChildren(
    ...images.map((image) => {
      const item = document.createElement("li");
      const picture = document.createElement("img");
      picture.src = image.image;
      picture.alt = `A training image of ${image.label}`;
      item.append(picture, document.createTextNode(image.label));
      return item;
    }),
  );
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function quoted(name) {
  return /^[\w.\-]+$/.test(name) ? name : `'${name.replaceAll("'", "'\\''")}'`;
}

function pictureIn(transfer) {
  return [...(transfer ? transfer.files : [])].find((file) => file.type.startsWith("image/") || !file.type);
}

for (const id of ["file", "camera"]) {
  byId(id).addEventListener("change", (event) => {
    if (event.target.files[0]) classify(event.target.files[0]);
    event.target.value = "";
  });
}
document.addEventListener("paste", (event) => {
  const file = pictureIn(event.clipboardData);
  if (file) classify(file);
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    byId("drop").classList.toggle("over", kind === "dragover");
    const file = kind === "drop" ? pictureIn(event.dataTransfer) : undefined;
    if (file) classify(file);
  });
}
byId("token").addEventListener("change", describe);
byId("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(byId("curl").textContent);
    byId("copied").textContent = "Copied.";
  } catch {
    byId("copied").textContent = "The browser does not allow it; select the line instead.";
  }
});
describe();

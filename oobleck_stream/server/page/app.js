// The page: what people see and touch. The sound itself passes it by (socket-worker.js).
import { LatentsPicture, SoundPicture } from "./picture.js";
import { Midi } from "./midi.js";
import { Pad } from "./pad.js";
import { fromHalf, readNpy } from "./npy.js";

const $ = (id) => document.getElementById(id);
const SEEKS = { ArrowLeft: -5, ArrowRight: 5, ArrowDown: -60, ArrowUp: 60 };
const INSTRUMENT = "instrument", PUSH = "push";
const CLOSED = {
  "not-finite": "a latent frame is not finite", "unknown-source": "the server does not have this piece (any more)",
  "bad-message": "the server did not understand this page: reload it", silent: "closed after a long silence",
};

let info, context, node, gain, worker, analyser, session;
let playing = false, ended = false, starting = false;
let marks = [], heard = { read: 0, written: 0, underruns: 0 }, lastMove = 0;
let file = null, clickedAt = 0;
const still = matchMedia("(prefers-reduced-motion: reduce)");
const latents = new LatentsPicture($("latents"));
const sound = new SoundPicture($("sound"));
const pad = new Pad($("pad"), $("x"), $("y"), () => play({ x: Number($("x").value), y: Number($("y").value) }));
const say = (text) => { if ($("status").textContent !== text) $("status").textContent = text; };
const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
const ms = (seconds) => Math.round(1000 * seconds);
const source = () => $("piece").value;

function warn(text) {
  $("notice").hidden = !text;
  $("notice").textContent = text || "";
}

async function open() {
  try {
    const answer = await fetch("v1/info");
    if (!answer.ok) throw new Error((await answer.json()).error);
    info = await answer.json();
  } catch (error) {
    return warn(`The server does not answer: ${error.message}`);
  }
  const channels = { 1: "mono", 2: "stereo" }[info.channels] || `${info.channels} channels`;
  $("model").textContent = `${info.model} · ${info.samplerate / 1000} kHz ${channels}`;
  for (const { name } of info.pieces) $("piece").append(new Option(name, name));
  if (info.instrument) $("piece").append(new Option("instrument", INSTRUMENT));
  latents.open(info.latent_dim, info.frame_rate);
  $("latents").style.aspectRatio = "auto";
  if (info.instrument) pad.open(info.instrument.points);
  $("early").append(new Option(`${ms(info.look_ahead / info.samplerate)} ms, early`, "early"),
    new Option(`${ms(info.latency / info.samplerate)} ms, exact`, "exact"));
  $("early-field").hidden = info.look_ahead === info.latency;
  if (!window.AudioWorkletNode) return listenOnly();
  $("play").disabled = !info.pieces.length;
  if (!info.pieces.length) say("Drop latents to hear them, or send them: see the help.");
  showPiece();
  requestAnimationFrame(draw);
  setInterval(describe, 1000);
}

function listenOnly() {
  $("listen-only").hidden = false;
  for (const { name } of info.pieces) $("plain-piece").append(new Option(name, name));
  const choose = () => { $("plain").src = `v1/listen/${encodeURIComponent($("plain-piece").value)}.wav`; };
  $("plain-piece").onchange = choose;
  if (info.pieces.length) choose();
  say("This address is not secure, so the page can only listen.");
}

async function start() {
  starting = true;
  clickedAt = performance.now();
  warn("");
  context = new AudioContext({ sampleRate: info.samplerate, latencyHint: "interactive" });
  const resumed = context.resume();
  await context.audioWorklet.addModule(new URL("player-worklet.js", import.meta.url));
  node = new AudioWorkletNode(context, "oobleck-player", {
    numberOfInputs: 0, outputChannelCount: [info.channels], processorOptions: { channels: info.channels },
  });
  gain = new GainNode(context);
  analyser = new AnalyserNode(context, { fftSize: 2048, smoothingTimeConstant: 0.5 });
  node.connect(gain).connect(analyser).connect(context.destination);
  node.port.onmessage = ({ data }) => fromPlayer(data);
  sound.open(analyser);
  setVolume();
  const { port1, port2 } = new MessageChannel();
  node.port.postMessage({ type: "port", port: port1 }, [port1]);
  worker = new Worker(new URL("socket-worker.js", import.meta.url), { type: "module" });
  worker.onmessage = ({ data }) => fromWorker(data);
  const url = new URL("v1/session", document.baseURI);
  url.protocol = url.protocol.replace("http", "ws");
  const seconds = source() === PUSH || source() === INSTRUMENT ? 0 : Number($("seek").value);
  const opening = {
    source: source(), sample: $("sample").value, ahead: Number($("ahead").value), frames: true,
    early: $("early").value === "early", seconds, loop: pressed("loop"),
  };
  worker.postMessage({ type: "start", settings: { url: url.href, open: opening }, player: port2 }, [port2]);
  if (file) sendFile();
  await resumed;
  context.onstatechange = () => { if (context.state === "interrupted" || (playing && context.state === "suspended")) rearm(); };
  starting = false;
}

// Some systems take the sound away, for a call: it needs another gesture to come back.
function rearm() {
  say("The system has paused the sound: press a key or click to go on.");
  addEventListener("pointerdown", () => playing && context.resume(), { once: true });
  addEventListener("keydown", () => playing && context.resume(), { once: true });
}

function sendFile() {
  worker.postMessage({ type: "file", file, seconds: Number($("seek").value) });
}

function stop() {
  if (worker) { worker.postMessage({ type: "stop" }); setTimeout((old) => old.terminate(), 200, worker); }
  if (context) { node.port.postMessage({ type: "stop" }); context.onstatechange = null; context.close(); }
  worker = context = node = analyser = session = undefined;
  marks = [];
  setPlaying(false);
}

const send = (message) => worker?.postMessage({ type: "send", message });

function setPlaying(on) {
  playing = on;
  $("play").textContent = on ? "Pause" : "Play";
  if (!on) describe();
}

async function toggle() {
  if (starting || $("play").disabled) return;
  if (!context) { setPlaying(true); say("Connecting…"); await start(); return; }
  if (playing) {
    setPlaying(false);
    send({ type: "pause" });
    await context.suspend();
    say("Paused");
  } else {
    setPlaying(true);
    const again = ended;
    ended = false;
    await context.resume();
    send({ type: "play" });
    if (again) seek(0);
    say("Playing");
  }
}

function seek(seconds) {
  const most = lengthOf(source());
  if (!most) return;
  seconds = Math.max(0, Math.min(most - 0.1, seconds));
  $("seek").value = seconds;
  showTime(seconds);
  ended = false;
  worker?.postMessage({ type: "seek", source: source(), seconds });
}

function lengthOf(name) {
  if (name === PUSH) return file ? file.count / info.frame_rate : 0;
  return info.pieces.find((piece) => piece.name === name)?.seconds || 0;
}

const markNow = () => [...marks].reverse().find((one) => one.sample <= heard.read);

function position() {
  const mark = markNow();
  return mark ? mark.seconds + (heard.read - mark.sample) / info.samplerate : Number($("seek").value);
}

function showPiece() {
  const length = lengthOf(source());
  $("seek").max = Math.max(length, 0.1);
  $("seek").disabled = !length;
  $("instrument").hidden = source() !== INSTRUMENT;
  showTime(0);
}

function showTime(seconds) {
  const length = lengthOf(source());
  const text = length ? `${clock(seconds)} / ${clock(length)}` : clock(seconds);
  if ($("time").textContent !== text) {
    $("time").textContent = text;
    $("seek").setAttribute("aria-valuetext", text);
  }
}

function choosePiece() {
  showPiece();
  $("seek").value = 0;
  ended = false;
  if (worker) {
    if (source() === PUSH) sendFile();
    else worker.postMessage({ type: "seek", source: source(), seconds: 0 });
    if (source() === INSTRUMENT) play(allControls());
  }
}

function fromWorker(message) {
  const { type } = message;
  if (type === "ready") ready(message);
  else if (type === "marks") ({ marks } = message);
  else if (type === "heard") progress(message);
  else if (type === "decoded") latents.add(fromHalf(new Uint16Array(message.data, message.offset)));
  else if (type === "status") status(message);
  else if (type === "set_at") settingsMoved(message);
  else if (type === "lost") lost(message);
  else if (type === "closed") { stop(); warn(CLOSED[message.reason] || "The server has closed the session."); }
  else if (type === "error") warn(sentence(message.message));
  else if (type === "play" || type === "pause") { if (playing !== (type === "play")) toggle(); }
}

const sentence = (text) => text[0].toUpperCase() + text.slice(1) + ".";

function ready(message) {
  ({ session } = message);
  warn("");
  $("keep").href = `v1/sessions/${session}/latents.npy`;
  $("keep").setAttribute("aria-disabled", "false");
  if (source() === INSTRUMENT) play(allControls());
  say(playing ? "Playing" : "Paused");
}

function lost({ reason, wait }) {
  const again = `trying again in ${(wait / 1000).toFixed(1)} s`;
  if (reason === "busy") say(`The server is full: ${again}`);
  else if (reason === "overloaded") say(`The server has become too slow: ${again}`);
  else if (wait > 500) say(`The connection was lost: ${again}`);
}

function status({ load, used, slots }) {
  $("load").textContent = `${Math.round(100 * load)} %, ${used} of ${slots}`;
}

function progress(message) {
  heard = message;
  const device = (context?.outputLatency || 0) + (context?.baseLatency || 0);
  const buffer = (heard.written - heard.read) / info.samplerate;
  const ahead = (markNow()?.look_ahead ?? info.latency) / info.samplerate;
  $("buffer").textContent = `${buffer.toFixed(2)} s`;
  $("delay").textContent = `${ms(ahead + buffer + device)} ms = look-ahead ${ms(ahead)} + buffer ${ms(buffer)} + device ${ms(device)}`;
  const late = context?.playbackStats?.underrunEvents;
  const gaps = heard.underruns + (late ? ` and ${late} of the device` : "");
  if ($("gaps").textContent !== gaps) $("gaps").textContent = gaps;
}

function fromPlayer({ type }) {
  if (type === "sounding" && clickedAt) {
    document.documentElement.dataset.firstSound = Math.round(performance.now() - clickedAt);
    clickedAt = 0;
  }
  if (type === "ended") { ended = true; setPlaying(false); context.suspend(); say("The end"); }
}

// The instrument

function play(fields) {
  lastMove = performance.now();
  send({ type: "set", ...fields });
}

function allControls() {
  return { x: Number($("x").value), y: Number($("y").value), speed: Number($("speed").value),
    freeze: pressed("freeze"), offset: offsets() };
}

function offsets() {
  return Object.fromEntries([1, 2, 3].map((one) => [one, Number($(`direction-${one}`).value)]));
}

// OSC moves the same controls; what a hand on this page moves is not fought with.
function settingsMoved(message) {
  if (performance.now() - lastMove < 500) return;
  pad.place(message.x, message.y);
  for (const one of [1, 2, 3]) $(`direction-${one}`).value = message.offset[one] || 0;
  $("speed").value = message.speed;
  press("freeze", message.freeze);
}

// Files

async function openFile(chosen) {
  if (!chosen || !info) return;
  try {
    file = readNpy(await chosen.arrayBuffer(), info.latent_dim);
  } catch (error) {
    return warn(`${chosen.name}: ${error.message}.`);
  }
  warn("");
  let option = [...$("piece").options].find((one) => one.value === PUSH);
  if (!option) $("piece").append(option = new Option("", PUSH));
  option.textContent = chosen.name;
  $("piece").value = PUSH;
  $("play").disabled = false;
  choosePiece();
  if (!playing) await toggle();
}

// Controls

const pressed = (id) => $(id).getAttribute("aria-pressed") === "true";
const press = (id, on) => $(id).setAttribute("aria-pressed", on);

function setVolume() {
  const level = Number($("volume").value);
  $("volume").setAttribute("aria-valuetext", `${level} %`);
  if (gain) gain.gain.value = pressed("mute") ? 0 : level / 100;
}

function changeVolume(step) {
  $("volume").value = Number($("volume").value) + step;
  setVolume();
}

function mute() {
  press("mute", !pressed("mute"));
  setVolume();
}

function loop() {
  press("loop", !pressed("loop"));
  send({ type: "loop", on: pressed("loop") });
}

function key(event) {
  const within = event.target.closest("input, select, textarea, dialog[open]");
  if (event.ctrlKey || event.metaKey || event.altKey || (within && event.key !== "?")) return;
  // Right after a dialog was closed, its hidden button may still have the focus.
  if (event.key === " " && event.target.closest("button, a")?.checkVisibility()) return;
  const actions = { " ": toggle, m: mute, l: loop, "?": () => $("help").showModal(),
    9: () => changeVolume(-5), 0: () => changeVolume(5) };
  if (event.key in SEEKS) seek(position() + SEEKS[event.key]);
  else if (event.key in actions) actions[event.key]();
  else return;
  event.preventDefault();
}

function restart() {
  if (!context) return;
  const was = playing;
  const at = position();
  stop();
  $("seek").value = at;
  if (was) toggle();
}

$("play").onclick = toggle;
$("mute").onclick = mute;
$("loop").onclick = loop;
$("keys").onclick = () => $("help").showModal();
$("volume").oninput = setVolume;
$("piece").onchange = choosePiece;
$("seek").onchange = () => seek(Number($("seek").value));
$("sample").onchange = $("ahead").onchange = $("early").onchange = restart;
$("file").onchange = () => openFile($("file").files[0]);
$("freeze").onclick = () => { press("freeze", !pressed("freeze")); play({ freeze: pressed("freeze") }); };
$("speed").oninput = () => { const speed = Number($("speed").value); $("speed").setAttribute("aria-valuetext", `${speed} times`); play({ speed }); };
for (const slider of document.querySelectorAll(".direction")) slider.oninput = () => play({ offset: offsets() });
$("center").onclick = () => {
  for (const one of [1, 2, 3]) $(`direction-${one}`).value = 0;
  $("speed").value = 1;
  press("freeze", false);
  pad.place(0.5, 0.5);
  play(allControls());
};
$("picture").onclick = () => {
  press("picture", !pressed("picture"));
  sound.show(pressed("picture") ? "waveform" : "spectrogram");
  $("sound-title").textContent = pressed("picture") ? "Waveform" : "Spectrogram";
};
addEventListener("keydown", key);
addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
addEventListener("dragleave", () => $("drop").classList.remove("over"));
addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  openFile(event.dataTransfer.files[0]);
});
addEventListener("pagehide", () => worker?.postMessage({ type: "stop" }));
new Midi($("midi"), [...document.querySelectorAll("#instrument input")], (text) => { $("midi-text").textContent = text; });

// Pictures

let drawn = 0;
function draw(now) {
  requestAnimationFrame(draw);
  if (!playing || (still.matches && now - drawn < 1000)) return;
  drawn = now;
  sound.draw();
  if (document.activeElement !== $("seek")) $("seek").value = position();
  showTime(position());
}

function describe() {
  if (!info) return;
  const name = $("piece").selectedOptions[0]?.textContent || "";
  const state = playing ? `playing ${name}` : "not playing";
  $("latents").setAttribute("aria-label", `Latents, ${info.latent_dim} numbers for each frame; ${state}`);
  $("sound").setAttribute("aria-label", `${$("sound-title").textContent}; ${state} at ${clock(position())}`);
}

open();

// The session: a WebSocket, in a thread of its own so that nothing the page does can hold it up.
// Samples go straight to the player in the audio thread; what people see goes to the page.
const HEADER = 16;
const FRAMES = 1, SAMPLES = 2, DECODED = 3;
const RETRY_MS = [200, 1000, 2000, 4000, 8000];
const FINAL = new Set(["bad-message", "not-finite", "unknown-source", "name-taken", "silent"]);

let settings; // {url, open}: how to open a session
let player; // the port of the worklet
let socket, session, info, file, timer;
let attempt = 0;
let got = 0; // number of the next sample to come
let heard = { read: 0, written: 0, underruns: 0 };
let turn = 0; // counts restarts, since the player's reports may be older
let marks = []; // epochs, by their first sample
let wanted = null; // the latest seek, until it is answered
let unanswered = 0; // seeks; until they are, no frames are sent, as they would belong to an older one
let frames = { next: 0, until: 0, offset: 0, ended: false }; // of a file, as they are sent
let paused = false;
let controls = null; // the instrument's settings

self.onmessage = ({ data }) => {
  if (data.type === "start") {
    ({ settings, player } = data);
    player.onmessage = (event) => fromPlayer(event.data);
    connect();
  } else if (data.type === "stop") stop();
  else if (data.type === "seek") seek(data);
  else if (data.type === "file") { file = data.file; seek({ source: "push", seconds: data.seconds }); }
  else if (data.type === "send") {
    if (data.message.type === "pause" || data.message.type === "play") {
      paused = data.message.type === "pause";
      if (!paused && !socket) connect();
    }
    if (data.message.type === "loop") settings.open.loop = data.message.on;
    if (data.message.type === "set") controls = { ...controls, ...data.message };
    send(data.message);
  }
};

const tell = (message, transfer = []) => self.postMessage(message, transfer);

function send(message) {
  if (socket && socket.readyState === WebSocket.OPEN && session) socket.send(JSON.stringify(message));
}

function connect() {
  clearTimeout(timer);
  socket = new WebSocket(settings.url, "oobleck.1");
  socket.binaryType = "arraybuffer";
  const mine = socket;
  const current = (handle) => (event) => { if (mine === socket) handle(event); };
  socket.onopen = current(() => {
    const first = session ? { type: "resume", session, have: got } : { type: "open", ...settings.open };
    socket.send(JSON.stringify(first));
  });
  socket.onmessage = current(({ data }) => {
    if (typeof data === "string") fromServer(JSON.parse(data));
    else numbers(data);
  });
  socket.onclose = current(({ code, reason }) => lost(code, reason));
}

function stop() {
  clearTimeout(timer);
  if (socket) { send({ type: "close" }); socket.onclose = null; socket.close(1000); }
  socket = session = null;
}

function lost(code, reason) {
  socket = null;
  if (FINAL.has(reason) || code === 1000) { session = null; tell({ type: "closed", code, reason }); return; }
  const wait = RETRY_MS[Math.min(attempt++, RETRY_MS.length - 1)] * (0.75 + 0.5 * Math.random());
  tell({ type: "lost", code, reason, wait });
  timer = setTimeout(connect, wait);
}

function fromServer(message) {
  const { type } = message;
  if (type === "ready") ready(message);
  else if (type === "epoch") began(message);
  else if (type === "more") { frames.until = message.frames_until; pump(); }
  else if (type === "end" || type === "overflow") player.postMessage({ type: "end", sample: message.sample });
  else if (type === "error" && message.code === "unknown-session") forgotten();
  if (type === "overflow") tell({ type: "error", code: type, message: message.message });
  if (type !== "epoch" && type !== "more" && type !== "overflow") tell(message);
}

function ready(message) {
  unanswered = 0;
  const again = session === message.session;
  attempt = 0;
  ({ session, info } = message);
  frames.until = message.frames_until;
  if (!again) {
    marks = [];
    restart(message.epoch.sample);
    marks.push(message.epoch);
    frames = { next: 0, until: message.frames_until, offset: 0, ended: false };
    if (paused) send({ type: "pause" });
    if (controls && settings.open.source === "instrument") send(controls);
  } else if (message.epoch.jump && message.epoch.sample > marks[marks.length - 1].sample) {
    began(message.epoch);
  } else if (message.resumed_at > got) restart(message.resumed_at);
  tell({ type: "marks", marks });
  const pushing = marks[marks.length - 1].source === "push";
  if (file && pushing && !wanted) { frames.next = message.frames_in; frames.ended = false; pump(); }
  if (wanted) seek(wanted);
}

function restart(sample) {
  got = sample;
  heard = { ...heard, read: sample, written: sample };
  player.postMessage({ type: "restart", sample, ahead: settings.open.ahead * info.samplerate, turn: ++turn });
}

function began(epoch) {
  marks = [...marks.filter((mark) => mark.sample < epoch.sample), epoch].slice(-50);
  if (epoch.jump) {
    restart(epoch.sample);
    if (--unanswered > 0) return;
    unanswered = 0;
    wanted = null;
    if (epoch.source === "push" && file) {
      frames.offset = frames.next - epoch.decoded;
      frames.ended = false;
      pump();
    }
  } else player.postMessage({ type: "goes-on" });
  tell({ type: "marks", marks });
}

// A server that was started again, or has waited too long: open a new session at the same place.
function forgotten() {
  const mark = [...marks].reverse().find((one) => one.sample <= heard.read) || marks[0];
  session = null;
  attempt = 0;
  const seconds = mark.seconds + (heard.read - mark.sample) / info.samplerate;
  const push = mark.source === "push";
  settings.open = { ...settings.open, source: mark.source, seconds: push ? 0 : seconds };
  wanted = push ? { source: "push", seconds } : null;
}

function seek({ source, seconds }) {
  wanted = { source, seconds };
  if (source) settings.open = { ...settings.open, source, seconds: source === "push" ? 0 : seconds };
  if (!session || !socket || socket.readyState !== WebSocket.OPEN) return;
  unanswered++;
  if (source !== "push") return send({ type: "seek", source, seconds });
  const frame = Math.min(Math.floor(seconds * info.frame_rate), Math.max(0, file.count - 1));
  send({ type: "seek", source, frame });
}

// Sends frames of the file as far as the server allows.
function pump() {
  if (!file || frames.ended || unanswered || !socket || !session) return;
  const width = info.latent_dim;
  const most = Math.floor((info.max_message - HEADER) / (4 * width));
  for (;;) {
    const first = frames.next - frames.offset;
    const count = Math.min(most, frames.until - frames.next, file.count - first);
    if (first >= file.count) { frames.ended = true; return send({ type: "end" }); }
    if (count <= 0) return;
    const message = new ArrayBuffer(HEADER + 4 * count * width);
    const view = new DataView(message);
    view.setUint8(0, FRAMES);
    view.setUint32(4, count, true);
    view.setBigUint64(8, BigInt(frames.next), true);
    new Float32Array(message, HEADER).set(file.data.subarray(first * width, (first + count) * width));
    socket.send(message);
    frames.next += count;
  }
}

function numbers(data) {
  const view = new DataView(data);
  const kind = view.getUint8(0), dtype = view.getUint8(1);
  const first = Number(view.getBigUint64(8, true));
  if (kind === DECODED) return tell({ type: "decoded", first, data, offset: HEADER }, [data]);
  if (kind !== SAMPLES) return;
  let audio = dtype === 1 ? Float32Array.from(new Int16Array(data, HEADER), (value) => value / 32767)
    : new Float32Array(data, HEADER);
  const rows = audio.length / info.channels;
  if (first + rows <= got) return;
  if (first > got) return socket.close(4400, "a sample is missing");
  audio = first < got ? audio.subarray((got - first) * info.channels) : audio;
  player.postMessage({ type: "samples", first: got, audio }, [data].filter(() => dtype === 0));
  got = first + rows;
}

function fromPlayer(data) {
  if (data.type === "broken") { if (socket) socket.close(4400, "a sample is missing"); return; }
  if (data.turn !== turn || !session) return;
  heard = data;
  const { read, underruns } = data;
  send({ type: "heard", sample: read, underruns, buffered: (data.written - read) / info.samplerate });
  tell(data);
}

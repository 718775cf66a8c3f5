// Plays samples as they come: every sample once, in order, unchanged. When there are none it plays
// silence, counts a gap, and waits until the buffer is filled again.
const RING_SECONDS = 8;
const REPORT_BLOCKS = 18; // about 50 ms

class Player extends AudioWorkletProcessor {
  constructor({ processorOptions: { channels } }) {
    super();
    this.capacity = Math.ceil(RING_SECONDS * sampleRate);
    this.ring = Array.from({ length: channels }, () => new Float32Array(this.capacity));
    this.blocks = 0;
    this.underruns = 0;
    this.paused = false;
    this.restart(0, 0, 0);
    this.port.onmessage = ({ data }) => this.control(data);
  }

  restart(sample, ahead, turn) {
    this.turn = turn; // which restart reports belong to
    this.read = this.written = sample; // numbers of samples, counted by the session
    this.end = Infinity;
    this.waiting = true;
    if (ahead) this.ahead = ahead;
    this.needed = (this.ahead || 0) / 2;
  }

  control(data) {
    if (data.type === "port") {
      this.feed = data.port;
      this.feed.onmessage = (event) => this.take(event.data);
    } else if (data.type === "paused") this.paused = data.on;
    else if (data.type === "stop") this.stopped = true;
  }

  take(data) {
    if (data.type === "restart") this.restart(data.sample, data.ahead, data.turn);
    else if (data.type === "end") this.end = data.sample;
    else if (data.type === "goes-on") this.end = Infinity;
    else if (data.type === "samples") this.append(data.first, data.audio);
  }

  append(first, audio) {
    const channels = this.ring.length;
    const count = audio.length / channels;
    if (first !== this.written || this.written + count - this.read > this.capacity) {
      this.feed.postMessage({ type: "broken", first, written: this.written });
      return;
    }
    let place = this.written % this.capacity;
    for (let row = 0; row < count; row++) {
      for (let channel = 0; channel < channels; channel++)
        this.ring[channel][place] = audio[row * channels + channel];
      if (++place === this.capacity) place = 0;
    }
    this.written += count;
  }

  process(_, [output]) {
    const length = output[0].length;
    const last = this.written >= this.end;
    const there = this.written - this.read;
    if (this.waiting && there && (there >= this.needed || last)) this.waiting = false;
    if (!this.waiting && !this.paused) {
      if (there >= length || (last && there > 0)) this.play(output, Math.min(there, length));
      else if (last) this.finish();
      else this.starve();
    }
    if (++this.blocks % REPORT_BLOCKS === 0) this.report();
    return !this.stopped;
  }

  play(output, count) {
    const place = this.read % this.capacity;
    const first = Math.min(count, this.capacity - place);
    for (let channel = 0; channel < this.ring.length; channel++) {
      const ring = this.ring[channel];
      const out = output[channel];
      if (!out) continue;
      for (let row = 0; row < first; row++) out[row] = ring[place + row];
      for (let row = first; row < count; row++) out[row] = ring[row - first];
    }
    if (!this.sounding) {
      this.sounding = true;
      this.port.postMessage({ type: "sounding", frame: currentFrame });
    }
    this.read += count;
  }

  starve() {
    this.underruns++;
    this.waiting = true;
    this.sounding = false;
    this.needed = Math.min(2 * this.needed || 128, 0.8 * this.ahead);
    this.report();
  }

  finish() {
    this.waiting = true;
    this.sounding = false;
    this.report();
    this.port.postMessage({ type: "ended", sample: this.read });
  }

  report() {
    const { read, written, underruns, turn } = this;
    if (this.feed) this.feed.postMessage({ type: "heard", read, written, underruns, turn });
  }
}

registerProcessor("oobleck-player", Player);

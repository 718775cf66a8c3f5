// The moving pictures: latents as they are decoded; spectrogram or waveform of what is heard.
const COLUMNS_A_SECOND = 60;
const FLOOR_DB = -100, CEILING_DB = -20;

export class LatentsPicture {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { willReadFrequently: false });
  }

  // One row for each number of a frame.
  open(latentDim, frameRate) {
    this.rows = latentDim;
    this.group = Math.max(1, Math.round(frameRate / COLUMNS_A_SECOND));
    this.repeat = Math.max(1, Math.round(COLUMNS_A_SECOND / frameRate));
    this.canvas.width = 480;
    this.canvas.height = latentDim;
    this.sum = new Float32Array(latentDim);
    this.count = 0;
    this.scale = 1;
  }

  add(frames) {
    for (let start = 0; start < frames.length; start += this.rows) {
      for (let row = 0; row < this.rows; row++) this.sum[row] += frames[start + row];
      if (++this.count === this.group) this.column();
    }
  }

  column() {
    const { context, canvas, rows, repeat } = this;
    context.drawImage(canvas, -repeat, 0);
    const image = context.createImageData(repeat, rows);
    let power = 0;
    for (let row = 0; row < rows; row++) {
      const value = this.sum[row] / this.count;
      power += value * value;
      const level = Math.max(-1, Math.min(1, value / (2.5 * this.scale)));
      const [red, green, blue] = level < 0 ? [30, 120, 220] : [250, 150, 30];
      const base = 24, amount = Math.abs(level);
      for (let column = 0; column < repeat; column++)
        image.data.set([base + (red - base) * amount, base + (green - base) * amount,
          base + (blue - base) * amount, 255], 4 * (row * repeat + column));
      this.sum[row] = 0;
    }
    this.scale = 0.98 * this.scale + 0.02 * Math.sqrt(power / rows + 1e-12);
    this.count = 0;
    context.putImageData(image, canvas.width - repeat, 0);
  }
}

export class SoundPicture {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.kind = "spectrogram";
    canvas.width = 480;
    canvas.height = 160;
    this.clear();
  }

  open(analyser) {
    this.analyser = analyser;
    this.spectrum = new Float32Array(analyser.frequencyBinCount);
    this.wave = new Float32Array(analyser.fftSize);
  }

  show(kind) {
    this.kind = kind;
    this.clear();
  }

  clear() {
    this.context.fillStyle = "#181818";
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
  }

  draw() {
    if (!this.analyser) return;
    if (this.kind === "spectrogram") this.spectrogram();
    else this.waveform();
  }

  spectrogram() {
    const { context, canvas, spectrum } = this;
    this.analyser.getFloatFrequencyData(spectrum);
    context.drawImage(canvas, -1, 0);
    const height = canvas.height;
    const image = context.createImageData(1, height);
    const octaves = Math.log2(spectrum.length);
    for (let y = 0; y < height; y++) {
      const bin = Math.min(spectrum.length - 1, Math.round(2 ** (octaves * (1 - y / height))));
      const level = Math.max(0, Math.min(1, (spectrum[bin] - FLOOR_DB) / (CEILING_DB - FLOOR_DB)));
      image.data.set([24 + 231 * level ** 1.4, 24 + 190 * level ** 2.2, 40 + 150 * Math.sin(level * Math.PI * 0.8), 255], 4 * y);
    }
    context.putImageData(image, canvas.width - 1, 0);
  }

  waveform() {
    const { context, canvas, wave } = this;
    this.analyser.getFloatTimeDomainData(wave);
    this.clear();
    context.strokeStyle = "#ff9b26";
    context.lineWidth = 1.5;
    context.beginPath();
    for (let x = 0; x < canvas.width; x++) {
      const value = wave[Math.floor((x / canvas.width) * wave.length)];
      context.lineTo(x, (1 - Math.max(-1, Math.min(1, value))) * canvas.height / 2);
    }
    context.stroke();
  }
}

// Reads .npy files of latents: float16, float32 or float64, in either order of axes.
export function readNpy(buffer, latentDim) {
  const bytes = new Uint8Array(buffer);
  const magic = String.fromCharCode(...bytes.subarray(1, 6));
  if (bytes[0] !== 0x93 || magic !== "NUMPY") throw new Error("this is not an .npy file");
  const view = new DataView(buffer);
  const wide = bytes[6] > 1;
  const start = (wide ? 12 : 10) + (wide ? view.getUint32(8, true) : view.getUint16(8, true));
  const header = new TextDecoder("latin1").decode(bytes.subarray(wide ? 12 : 10, start));
  const descr = /'descr':\s*'([^']+)'/.exec(header)?.[1];
  const fortran = /'fortran_order':\s*True/.test(header);
  const shape = (/'shape':\s*\(([^)]*)\)/.exec(header)?.[1] || "").split(",").filter((part) => part.trim()).map(Number);
  const width = { "<f2": 2, "<f4": 4, "<f8": 8 }[descr];
  if (!width) throw new Error(`latents of float16, float32 or float64 were expected, not ${descr}`);
  while (shape.length > 2 && shape[0] === 1) shape.shift();
  if (shape.length !== 2 || !shape.includes(latentDim))
    throw new Error(`latents of shape (frames, ${latentDim}) were expected, not (${shape.join(", ")})`);
  const count = shape[0] * shape[1];
  if (buffer.byteLength < start + count * width) throw new Error("the file is cut off");
  const numbers = readNumbers(buffer.slice(start, start + count * width), width);
  const timeFirst = shape[1] === latentDim;
  const frames = timeFirst ? shape[0] : shape[1];
  if (frames === 0) throw new Error("the file holds no frames");
  const data = timeFirst === !fortran ? numbers : transposed(numbers, latentDim, frames);
  const bad = data.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0) throw new Error(`frame ${Math.floor(bad / latentDim)} is not finite`);
  return { data, count: frames };
}

function readNumbers(buffer, width) {
  if (width === 4) return new Float32Array(buffer);
  if (width === 8) return Float32Array.from(new Float64Array(buffer));
  return fromHalf(new Uint16Array(buffer));
}

function transposed(numbers, rows, columns) {
  const out = new Float32Array(numbers.length);
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) out[column * rows + row] = numbers[row * columns + column];
  return out;
}

export function fromHalf(halves) {
  const out = new Float32Array(halves.length);
  for (let index = 0; index < halves.length; index++) {
    const half = halves[index];
    const exponent = (half >> 10) & 31, fraction = half & 1023;
    const sign = half & 0x8000 ? -1 : 1;
    if (exponent === 31) out[index] = fraction ? NaN : sign * Infinity;
    else if (exponent === 0) out[index] = sign * fraction * 2 ** -24;
    else out[index] = sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  }
  return out;
}

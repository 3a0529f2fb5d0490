// Files of messages: handed to the daemon and fetched from it in pieces of 256 KiB.

const PIECE = 256 * 1024
// Pictures up to this size are shown.
const SHOWN = 8 * 1024 * 1024
const PICTURES = ['image/png', 'image/jpeg', 'image/gif', 'image/webp']

const encode = bytes => {
  let text = ''
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192))
  return btoa(text)
}
const decode = text => Uint8Array.from(atob(text), c => c.charCodeAt(0))

const sizeOf = n => (n < 1024 ? `${n} bytes` : n < 1024 * 1024 ? `${(n / 1024).toFixed(1)} KiB` : `${(n / 1024 / 1024).toFixed(1)} MiB`)

// Hands a file to the daemon; its number there.
export async function handIn(file, ask, progress) {
  const { upload } = await ask({ do: 'file_new', name: file.name, kind: file.type })
  for (let at = 0; at === 0 || at < file.size; at += PIECE) {
    progress(`${file.name}: ${Math.round((100 * at) / Math.max(file.size, 1))} %`)
    const bytes = new Uint8Array(await file.slice(at, at + PIECE).arrayBuffer())
    await ask({ do: 'file_put', upload, bytes: encode(bytes) })
  }
  return upload
}

async function fetchFile(e, file, ask, progress) {
  const pieces = []
  while (pieces.length < file.pieces) {
    const answer = await ask({ do: 'file_get', platform: e.platform, message: e.id, file: file.file, piece: pieces.length })
    if (answer.is === 'piece') pieces.push(decode(answer.bytes))
    else {
      progress(`${answer.here} of ${answer.pieces} pieces are here`)
      await new Promise(done => setTimeout(done, 300))
    }
  }
  return new Blob(pieces, { type: PICTURES.includes(file.kind) ? file.kind : 'application/octet-stream' })
}

// What was shown once is not fetched again when its message is drawn anew: by message, and by file.
const shown = new Map()

function picture(e, file, { ask, el }) {
  const image = el('img', { alt: file.name, className: 'attached' })
  if (!shown.has(e.id)) shown.set(e.id, new Map())
  const ofMessage = shown.get(e.id)
  if (!ofMessage.has(file.file)) ofMessage.set(file.file, fetchFile(e, file, ask, () => {}).then(blob => URL.createObjectURL(blob)))
  ofMessage.get(file.file).then(url => { image.src = url }, () => ofMessage.delete(file.file))
  return image
}

// The browser keeps nothing of a message that is gone.
export function forget(id) {
  for (const url of shown.get(id)?.values() ?? []) url.then(URL.revokeObjectURL, () => {})
  shown.delete(id)
}

export function drawFiles(e, tools) {
  const { ask, el, attempt } = tools
  return el('ul', { className: 'files' }, ...e.files.map(file => {
    const state = el('span', { className: 'marks' })
    const save = el('button', {
      textContent: `${file.name}, ${sizeOf(file.size)}`,
      onclick: () => attempt(async () => {
        const blob = await fetchFile(e, file, ask, text => { state.textContent = text })
        state.textContent = ''
        const url = URL.createObjectURL(blob)
        el('a', { href: url, download: file.name }).click()
        setTimeout(() => URL.revokeObjectURL(url), 60_000)
      }),
    })
    save.setAttribute('aria-label', `Save ${file.name}, ${sizeOf(file.size)}`)
    const isPicture = PICTURES.includes(file.kind) && file.size <= SHOWN && file.here === file.pieces
    return el('li', {}, isPicture ? picture(e, file, tools) : null, save, state)
  }))
}

// Calls of two, by WebRTC. Offers, answers and candidates travel sealed and signed through the mesh, so that the keys of the media are
// authenticated by who says them; the media goes from mesh address to mesh address.

const RING_MS = 45_000

// What the page gives: ask, el, dialog, notice, and this node's mesh addresses.
export function calls({ ask, el, dialog, notice, addresses }) {
  const own = crypto.randomUUID()
  let call = null

  const tell = (to, what) => ask({ do: 'signal', platform: to.platform, who: to.who, data: JSON.stringify({ from: own, ...what }) })

  function end(why) {
    if (!call) return
    clearTimeout(call.ringing)
    call.connection?.close()
    call.media?.getTracks().forEach(track => track.stop())
    call.panel?.remove()
    if (call.asking && document.getElementById('dialog').open) document.getElementById('dialog').close()
    call = null
    if (why) notice(why, true)
  }

  function draw() {
    const remote = el('video', { autoplay: true, playsInline: true, className: 'remote' })
    const local = el('video', { autoplay: true, playsInline: true, muted: true, className: 'local' })
    remote.setAttribute('aria-label', `Video of ${call.nick}`)
    local.setAttribute('aria-label', 'Your own video')
    const mute = el('button', { textContent: 'Mute', onclick: () => {
      const on = mute.getAttribute('aria-pressed') !== 'true'
      mute.setAttribute('aria-pressed', String(on))
      call.media?.getAudioTracks().forEach(track => { track.enabled = !on })
    } })
    mute.setAttribute('aria-pressed', 'false')
    const hang = el('button', { textContent: 'Hang up', className: 'danger', onclick: () => hangUp() })
    const state = el('p', { className: 'call-state', textContent: `Calling ${call.nick}` })
    state.setAttribute('role', 'status')
    const panel = el('section', { className: 'call' }, remote, local, el('div', { className: 'row' }, state, mute, hang))
    panel.setAttribute('aria-label', `Call with ${call.nick}`)
    document.getElementById('title').after(panel)
    Object.assign(call, { panel, remote, local, state })
  }

  // Only addresses of the mesh are told: what else this machine has is nobody's business. And nobody makes this machine knock elsewhere.
  const inMesh = candidate => addresses().includes(candidate.address)
  const network = address => (address.includes(':') ? address.split(':').slice(0, 3).join(':') : address.split('.')[0])
  const isNear = candidate => addresses().some(own => network(own) === network(new RTCIceCandidate(candidate).address ?? ''))

  async function begin(video) {
    const mine = call
    draw()
    const connection = mine.connection = new RTCPeerConnection({ iceServers: [] })
    connection.onicecandidate = ({ candidate }) => {
      if (candidate && inMesh(candidate)) tell(mine, { is: 'ice', to: mine.other, candidate: candidate.toJSON() }).catch(() => {})
    }
    connection.ontrack = ({ streams }) => { mine.remote.srcObject = streams[0] }
    connection.onconnectionstatechange = () => {
      if (mine !== call) return
      const text = { connected: `Talking to ${mine.nick}`, connecting: `Connecting to ${mine.nick}`, disconnected: 'The connection is interrupted' }
      mine.state.textContent = text[connection.connectionState] ?? mine.state.textContent
      if (connection.connectionState === 'failed') end(`There is no way to ${mine.nick} over the mesh.`)
    }
    mine.media = await navigator.mediaDevices.getUserMedia({ audio: true, video })
    if (mine !== call) return mine.media.getTracks().forEach(track => track.stop())
    mine.local.srcObject = mine.media
    mine.local.hidden = !video
    mine.media.getTracks().forEach(track => connection.addTrack(track, mine.media))
  }

  // Candidates that come before the description wait for it.
  async function describe(mine, description) {
    await mine.connection.setRemoteDescription(bare(description))
    for (const candidate of mine.waiting.splice(0)) await mine.connection.addIceCandidate(candidate)
  }

  // A description without candidates: those go by themselves, and only some.
  const bare = ({ type, sdp }) => ({ type, sdp: sdp.split('\r\n').filter(line => !line.startsWith('a=candidate:')).join('\r\n') })

  async function start(platform, who, nick, video) {
    if (call) throw new Error('There is a call already.')
    const mine = call = { platform, who, nick, video, other: null, waiting: [], id: crypto.randomUUID() }
    try {
      await begin(video)
      if (mine !== call) return
      await mine.connection.setLocalDescription(await mine.connection.createOffer())
      await tell(mine, { is: 'offer', call: mine.id, video, description: bare(mine.connection.localDescription) })
      mine.ringing = setTimeout(() => { hangUp(`${nick} does not answer.`) }, RING_MS)
    } catch (error) {
      end()
      throw error
    }
  }

  async function hangUp(why) {
    const mine = call
    end(why)
    if (mine) await tell(mine, { is: 'bye', call: mine.id }).catch(() => {})
  }

  async function answer() {
    const mine = call
    mine.asking = false
    clearTimeout(mine.ringing)
    try {
      await begin(mine.video)
      if (mine !== call) return
      await describe(mine, mine.offer)
      await mine.connection.setLocalDescription(await mine.connection.createAnswer())
      await tell(mine, { is: 'answer', call: mine.id, to: mine.other, description: bare(mine.connection.localDescription) })
    } catch (error) {
      hangUp(error.message)
    }
  }

  function ring(event, said) {
    call = { platform: event.platform, who: event.from, nick: event.nick, video: said.video, other: said.from, id: said.call, offer: said.description, waiting: [], asking: true }
    call.ringing = setTimeout(() => end(`${event.nick} called you.`), RING_MS)
    const mine = call
    const dialogElement = document.getElementById('dialog')
    dialog(`${event.nick} calls you`, [el('p', { textContent: said.video ? 'With video.' : 'Without video.' })], [
      ['Answer', () => { if (mine === call) answer() }],
      ['Decline', () => { if (mine === call) hangUp() }, 'danger'],
    ])
    dialogElement.addEventListener('close', () => { if (mine === call && mine.asking) hangUp() }, { once: true })
  }

  // What another page says.
  async function heard(event) {
    const said = JSON.parse(event.data)
    if (said.is === 'offer') {
      if (call) return tell({ platform: event.platform, who: event.from }, { is: 'busy', call: said.call, to: said.from })
      return ring(event, said)
    }
    if (!call || event.from !== call.who || (said.to && said.to !== own)) return
    if (said.is === 'ice' && (!call.other || call.other === said.from) && isNear(said.candidate)) {
      if (call.connection?.remoteDescription) await call.connection.addIceCandidate(said.candidate)
      else call.waiting.push(said.candidate)
    }
    if (said.call !== call.id) return
    if (said.is === 'answer' && !call.other) {
      call.other = said.from
      clearTimeout(call.ringing)
      await describe(call, said.description)
      // The other devices of the same person need not ring any longer.
      await tell(call, { is: 'taken', call: call.id, by: said.from })
    }
    if (said.is === 'taken' && said.by !== own && call.asking) end()
    if (said.is === 'busy') end(`${call.nick} is in another call.`)
    if (said.is === 'bye' && (!call.other || call.other === said.from)) end(`${call.nick} has hung up.`)
  }

  return { start, heard }
}

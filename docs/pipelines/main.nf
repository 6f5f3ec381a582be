// nextflow run main.nf --bids /data/bids --out /data/out --participants 01,02
//
// One task a participant, then the group level. All tasks write into one folder, which is not
// the task's own: results are taken from there by the next call, whatever becomes of `work`.
nextflow.enable.dsl = 2

params.bids = null
params.out = null
params.participants = null
params.options = '--models connectome'

process PARTICIPANT {
    tag "sub-${label}"
    container 'neurostorm-app'
    cpus 2
    memory '8 GB'
    // 75: try again. Anything else is an error of the input or of the call.
    errorStrategy { task.exitStatus == 75 ? 'retry' : 'finish' }
    maxRetries 3

    input:
    val label

    output:
    val label

    script:
    """
    neurostorm-app ${params.bids} ${params.out} participant --participant-label ${label} \\
        --nprocs ${task.cpus} --mem ${task.memory.toMega()}M ${params.options}
    """
}

process GROUP {
    container 'neurostorm-app'
    cpus 2
    memory '8 GB'

    input:
    val labels

    output:
    stdout

    script:
    """
    neurostorm-app ${params.bids} ${params.out} group
    """
}

workflow {
    labels = Channel.fromList(params.participants.toString().tokenize(','))
    PARTICIPANT(labels)
    GROUP(PARTICIPANT.out.collect())
}
